# The installation: headers, a CMake package (components: core, always there, and io) and pkg-config
# files. Nothing depends on the architecture, so all of it lands under include/ and share/.
include(CMakePackageConfigHelpers)

set(lowbit_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/lowbit")
set(lowbit_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
# pkg-config files find the headers relative to themselves, so that a moved prefix still works.
file(RELATIVE_PATH lowbit_pc_prefix "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig"
     "${CMAKE_INSTALL_PREFIX}")
file(RELATIVE_PATH lowbit_pc_includedir "${CMAKE_INSTALL_PREFIX}" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")

# One target with all its sets of headers, and its export file.
function(lowbit_install target component)
  get_target_property(sets ${target} INTERFACE_HEADER_SETS)
  set(what "")
  foreach(set IN LISTS sets)
    list(APPEND what FILE_SET ${set} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT
         ${component})
  endforeach()
  install(TARGETS ${target} EXPORT lowbit_${component} ${what})
  install(
    EXPORT lowbit_${component}
    FILE lowbit-${component}.cmake
    NAMESPACE lowbit::
    DESTINATION "${lowbit_package_dir}"
    COMPONENT ${component})
endfunction()

function(lowbit_install_pkgconfig name component)
  configure_file("cmake/${name}.pc.in" "${PROJECT_BINARY_DIR}/${name}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/${name}.pc" DESTINATION "${lowbit_pkgconfig_dir}"
          COMPONENT ${component})
endfunction()

lowbit_install(lowbit core)
lowbit_install_pkgconfig(lowbit core)
if(LOWBIT_WITH_IO)
  lowbit_install(lowbit_io io)
  lowbit_install_pkgconfig(lowbit-io io)
  install(FILES cmake/modules/FindLowbitXxhash.cmake DESTINATION "${lowbit_package_dir}"
          COMPONENT io)
endif()

configure_package_config_file(cmake/lowbitConfig.cmake.in "${PROJECT_BINARY_DIR}/lowbitConfig.cmake"
                              INSTALL_DESTINATION "${lowbit_package_dir}")
# Before 1.0 a minor version may break the API.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/lowbitConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(
  FILES "${PROJECT_BINARY_DIR}/lowbitConfig.cmake"
        "${PROJECT_BINARY_DIR}/lowbitConfigVersion.cmake"
        cmake/modules/FindLowbitXsimd.cmake
  DESTINATION "${lowbit_package_dir}"
  COMPONENT core)
